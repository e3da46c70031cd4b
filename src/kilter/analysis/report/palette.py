"""The report's colours in light and in dark, as CSS variables.

The series colours follow Okabe and Ito's palette for colour-blind readers (Color Universal Design, 2008), darkened for
light backgrounds and lightened for dark ones so that each stands out from its background by at least 3:1 (WCAG 1.4.11).
"""

# name: (light, dark)
COLOURS = {
    "page": ("#f5f6f8", "#0e1217"),
    "surface": ("#ffffff", "#161b22"),
    "raised": ("#f0f2f5", "#1f262f"),
    "line": ("#dfe3e8", "#2c3540"),
    "text": ("#17202b", "#e7ebf0"),
    "muted": ("#57626f", "#9da9b7"),
    "accent": ("#0b5cad", "#6db3ff"),
    "good": ("#00614f", "#4fd0ae"),
    "good-surface": ("#e3f4ef", "#112b26"),
    "bad": ("#a83700", "#ff9a62"),
    "bad-surface": ("#fdeee5", "#33200f"),
    "unclear": ("#55606d", "#a9b4c1"),
    "unclear-surface": ("#eef1f4", "#212831"),
    "warn": ("#7a5200", "#f2c14e"),
    "warn-surface": ("#fff6dc", "#2f2710"),
    "s0": ("#0072b2", "#5ab4f0"),
    "s1": ("#c65500", "#ff9048"),
    "s2": ("#00866a", "#34c79a"),
    "s3": ("#a64586", "#e292c4"),
    "s4": ("#8f6c00", "#f0c84b"),
    "s5": ("#2b84b8", "#9ad5ff"),
    "s6": ("#666d75", "#b8bec6"),
    "s7": ("#7d4a26", "#d3a27c"),
}


def palette_css() -> str:
    """Return the rules that set the colours: by the reader's preference, or as the page's switch says."""
    light, dark = (";".join(f"--{name}:{colours[number]}" for name, colours in COLOURS.items()) for number in (0, 1))
    return "\n".join(
        (
            f":root{{color-scheme:light;{light}}}",
            f"@media (prefers-color-scheme:dark){{:root:not([data-theme=light]){{color-scheme:dark;{dark}}}}}",
            f":root[data-theme=dark]{{color-scheme:dark;{dark}}}",
            f"@media print{{:root,:root[data-theme=dark]{{color-scheme:light;{light}}}}}",
        )
    )
