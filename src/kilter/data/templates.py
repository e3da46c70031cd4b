"""Chat templates that Kilter ships, for base models that have none. Both mark the assistant's turns for training."""

PLAIN = """\
{{- bos_token if bos_token else '' -}}
{%- for message in messages -%}
{%- if message['role'] == 'assistant' -%}
{{- 'Assistant:\\n' -}}
{%- generation -%}
{{- (message['content'] | trim) + eos_token -}}
{%- endgeneration -%}
{{- '\\n\\n' -}}
{%- else -%}
{{- message['role'].capitalize() + ':\\n' + (message['content'] | trim) + '\\n\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- 'Assistant:\\n' -}}
{%- endif -%}
"""

CHATML = """\
{{- bos_token if bos_token else '' -}}
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['role'] == 'assistant' -%}
{%- generation -%}
{{- (message['content'] | trim) + '<|im_end|>' -}}
{%- endgeneration -%}
{%- else -%}
{{- (message['content'] | trim) + '<|im_end|>' -}}
{%- endif -%}
{{- '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""

TEMPLATES = {"plain": PLAIN, "chatml": CHATML}


def resolve_template(text_or_name: str | None) -> str | None:
    """Return a template's text: that of a shipped one by its name, or the text itself; None stays None.

    Args:
        text_or_name: `plain` (turns headed User: and Assistant:, EOS after each answer), `chatml` (needs the token
            `<|im_end|>`), a Jinja template, or None for the tokenizer's own.
    """
    if text_or_name is None:
        return None
    return TEMPLATES.get(text_or_name, text_or_name)
