"""Options that several commands take."""

import json
from typing import Annotated, Any

import typer

ProcessorOption = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL", help="Model whose processor and classes an exported file takes that states none itself."
    ),
]


def json_object(text: str | None) -> dict[str, Any]:
    """Parse the options of an explainer, a JSON object; without a text, none."""
    try:
        options = json.loads(text or "{}")
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no JSON: {error}.") from error
    if not isinstance(options, dict):
        raise typer.BadParameter(f"""{text!r} is no JSON object, such as '{{"n_steps": 8}}'.""")
    return options


def explainer_options_of(explainer: str | None, text: str | None) -> dict[str, Any]:
    """Parse the options of the explainer that the command line names, which it must name for them."""
    options = json_object(text)
    if text is not None and explainer is None:
        raise typer.BadParameter("--explainer-options need --explainer, whose options they are.")
    return options


def is_given(context: typer.Context, name: str) -> bool:
    """Tell whether the command line, or a file of options, names an option."""
    source = context.get_parameter_source(name)
    # By its name: of click's own enumeration the text is a number.
    return source is not None and source.name == "COMMANDLINE"
