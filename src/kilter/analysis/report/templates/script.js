"use strict";
(() => {
  const root = document.documentElement;
  const asked = /(?:^#|&)theme=(dark|light)/.exec(location.hash);
  if (asked) root.dataset.theme = asked[1];

  const theme = () => {
    const buttons = [...document.querySelectorAll("[data-set-theme]")];
    const show = () => buttons.forEach((button) =>
      button.setAttribute("aria-pressed", String(button.dataset.setTheme === (root.dataset.theme || "auto"))));
    buttons.forEach((button) => button.addEventListener("click", () => {
      if (button.dataset.setTheme === "auto") delete root.dataset.theme;
      else root.dataset.theme = button.dataset.setTheme;
      show();
    }));
    show();
  };

  const reveal = (id) => {
    const target = id && document.getElementById(id);
    if (!target) return;
    for (let place = target; place; place = place.parentElement) {
      if (place.tagName === "DETAILS") place.open = true;
    }
    document.querySelectorAll(".target").forEach((other) => other.classList.remove("target"));
    target.classList.add("target");
    target.scrollIntoView({ block: target.tagName === "TR" ? "center" : "start" });
  };
  const named = (hash) => hash.slice(1);

  const links = () => {
    // In a srcdoc frame an address is resolved against the outer page: following a link would load that page here.
    const framed = document.baseURI.split("#")[0] !== location.href.split("#")[0];
    document.addEventListener("click", (event) => {
      const link = event.target instanceof Element && event.target.closest("a[href^='#']");
      if (!link) return;
      if (framed) event.preventDefault();
      if (framed || link.hash === location.hash) reveal(named(link.hash));
    });
    addEventListener("hashchange", () => reveal(named(location.hash)));
    reveal(named(location.hash));
  };

  const contents = () => {
    const entries = new Map([...document.querySelectorAll("nav a")].map((link) => [named(link.hash), link]));
    const visible = new Set();
    const watcher = new IntersectionObserver((changes) => {
      changes.forEach((entry) => visible[entry.isIntersecting ? "add" : "delete"](entry.target.id));
      const current = [...entries.keys()].find((id) => visible.has(id));
      entries.forEach((link, id) => {
        if (id === current) link.setAttribute("aria-current", "true");
        else link.removeAttribute("aria-current");
      });
    }, { rootMargin: "-64px 0px -55% 0px" });
    entries.forEach((_, id) => { const section = document.getElementById(id); if (section) watcher.observe(section); });
  };

  const valueOf = (row, column) => {
    const cell = row.cells[column];
    const text = cell.dataset.sort ?? cell.textContent.trim();
    const number = Number(text);
    return text !== "" && !Number.isNaN(number) ? number : text.toLowerCase();
  };

  const sortable = (table) => {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const direction = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
        [...table.tHead.rows[0].cells].forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", direction === 1 ? "ascending" : "descending");
        const rows = [...table.tBodies[0].rows];
        rows.sort((one, other) => {
          const [first, second] = [valueOf(one, column), valueOf(other, column)];
          if (typeof first === typeof second) return first < second ? -direction : first > second ? direction : 0;
          return typeof first === "number" ? -direction : direction;
        });
        table.tBodies[0].append(...rows);
      });
    });
  };

  const filterable = (box) => {
    const table = document.getElementById(box.dataset.filter);
    const count = box.closest(".filter").querySelector("output");
    const texts = new Map([...table.tBodies[0].rows].map((row) => [row, row.textContent.toLowerCase()]));
    box.addEventListener("input", () => {
      const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      texts.forEach((text, row) => {
        row.hidden = !words.every((word) => text.includes(word));
        shown += row.hidden ? 0 : 1;
      });
      count.textContent = words.length ? `${shown} of ${texts.size} rows` : "";
    });
  };

  document.addEventListener("DOMContentLoaded", () => {
    root.classList.add("scripted");
    theme();
    contents();
    document.querySelectorAll("table.sortable").forEach(sortable);
    document.querySelectorAll("input[data-filter]").forEach(filterable);
    addEventListener("beforeprint", () =>
      document.querySelectorAll("details.print").forEach((block) => { block.open = true; }));
    links();
  });
})();
