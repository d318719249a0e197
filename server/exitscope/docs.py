"""The API's page, made from its OpenAPI description: plain HTML, no script, nothing from another host."""

from html import escape
from typing import Any, Final

_STYLE: Final = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
code { font: 0.9em ui-monospace, monospace; }
table { border-collapse: collapse; width: 100%; margin: 0.5rem 0 1.5rem; }
th, td { text-align: left; vertical-align: top; padding: 0.3rem 0.8rem 0.3rem 0; }
th, td { border-top: 1px solid #8884; }
h2 { margin-top: 2.5rem; } h3 { margin-bottom: 0; }
"""


def render(openapi: dict[str, Any]) -> str:
    """HTML of an OpenAPI 3.1 description: every endpoint, then every type with its fields."""
    info = openapi["info"]
    schemas = openapi.get("components", {}).get("schemas", {})
    paths = "".join(
        _operation(method.upper(), path, operation)
        for path, operations in openapi["paths"].items()
        for method, operation in operations.items()
    )
    types = "".join(_type(name, schema) for name, schema in schemas.items())
    title = escape(f"{info['title']} API")
    return (
        f"<!doctype html><html lang=en><head><meta charset=utf-8><title>{title}</title>"
        f"<meta name=viewport content='width=device-width'><style>{_STYLE}</style></head><body>"
        f"<h1>{title} <small>{escape(info['version'])}</small></h1><p>{escape(info.get('description', ''))} "
        "<a href='openapi.json'>openapi.json</a> · <a href='.'>the live page</a></p>"
        f"<h2>Endpoints</h2>{paths}"
        "<h3><code>WebSocket /api/v1/live?vm=&amp;window=</code></h3><p>A <code>history</code>, then a "
        '<code>frame</code> five times a second, as JSON. A message <code>{"vm": id, "window": name}</code> '
        "changes what is shown; anything else is answered by an error.</p>"
        f"<h2>Types</h2>{types}</body></html>"
    )


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    answers = operation["responses"]
    body = answers.get("200", {}).get("content", {}).get("application/json", {}).get("schema")
    parameters = [
        (
            f"{parameter['name']} ({parameter['in']})",
            _type_name(parameter["schema"]),
            parameter.get("description", ""),
        )
        for parameter in operation.get("parameters", ())
    ]
    errors = ", ".join(
        f"{status} {escape(a['description'].lower())}" for status, a in answers.items() if status != "200"
    )
    return (
        f"<h3><code>{method} {escape(path)}</code></h3><p>{escape(operation.get('description', ''))}"
        f"{f' → {_type_name(body)}' if body else ''}<br><small>Errors: {errors}</small></p>"
        f"{_table(parameters)}"
    )


def _type(name: str, schema: dict[str, Any]) -> str:
    fields = [
        (field, _type_name(value), value.get("description", ""))
        for field, value in schema.get("properties", {}).items()
    ]
    meaning = escape(schema.get("description", ""))
    return f"<h3 id='{escape(name)}'>{escape(name)}</h3><p>{meaning}</p>{_table(fields)}"


def _table(rows: list[tuple[str, str, str]]) -> str:
    lines = (f"<tr><td><code>{escape(a)}</code><td>{b}<td>{escape(c)}" for a, b, c in rows)
    return f"<table>{''.join(lines)}</table>" if rows else ""


def _type_name(schema: dict[str, Any]) -> str:
    """A short name of a schema's type, as HTML."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rsplit("/", 1)[-1])
        return f"<a href='#{name}'>{name}</a>"
    if "enum" in schema:
        return escape(" | ".join(map(str, schema["enum"])))
    if "anyOf" in schema:
        return " | ".join(_type_name(one) for one in schema["anyOf"])
    if schema.get("type") == "array":
        return f"list of {_type_name(schema.get('items', {}))}"
    if isinstance(schema.get("additionalProperties"), dict):
        return f"map of string to {_type_name(schema['additionalProperties'])}"
    return escape(str(schema.get("type", "any")))
