"""`hf-e2kd card`: the model card of a student, from what was measured of it."""

import json
from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from ..cards.card import save_card
from ..fidelity import FIDELITY_FILE, FidelityRecord
from ..hub.ids import check_repo_id
from ..hub.upload import NOT_PUBLISHED, push_folder
from .fidelity import place_of
from .output import echo

PICTURE = "explanations.png"


def card(
    folder: Annotated[Path, typer.Argument(help="Folder of a student, or of a measurement, with its fidelity.json.")],
    repo_id: Annotated[
        str | None, typer.Option(metavar="USER/NAME", help="Where the student is published; the card's code names it.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="What the card calls it, where --repo-id doesn't.")] = None,
    license_: Annotated[
        str | None, typer.Option("--license", help="Its licence, as the Hub names it; by default its base model's.")
    ] = None,
    language: Annotated[list[str] | None, typer.Option(help="Of the texts, as en; several times for several.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="A further tag; several times for several.")] = None,
    push: Annotated[bool, typer.Option("--push", help="Publish the folder in --repo-id.")] = False,
    private: Annotated[bool, typer.Option("--private", help="Publish it for yourself alone.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Write a student's model card anew, with the figures of its fidelity.json, and publish it if asked to.

    The figures are those that were measured: to change them, measure again with `hf-e2kd fidelity`.

    \b
    Examples:
      hf-e2kd card outputs/distill_vit/student --license apache-2.0
      hf-e2kd card outputs/distill_vit/student --repo-id me/student \\
          --license apache-2.0 --push
    """
    if push and repo_id is None:
        raise typer.BadParameter("--push needs --repo-id USER/NAME.")
    if repo_id is not None:
        check_repo_id(repo_id)
    if not folder.is_dir():
        raise ValueError(f"There is no folder '{folder}'. Give that of a student, or of its measurement.")
    if not (folder / FIDELITY_FILE).is_file():
        raise ValueError(
            f"'{folder}' has no {FIDELITY_FILE}. Measure the student first: hf-e2kd fidelity --teacher A --student "
            f"{quote(str(folder))} --dataset D --output-dir {quote(str(folder))}."
        )
    record = FidelityRecord.load(folder)
    measured_elsewhere = repo_id is None and not (folder / "config.json").is_file()
    found = {
        "model_name": name,
        "student": place_of(record) if measured_elsewhere else None,
        "license": license_,
        "language": language,
        "tags": tag,
    }
    path = save_card(
        record,
        folder,
        repo_id=repo_id,
        picture=PICTURE if (folder / PICTURE).is_file() else None,
        **{name: value for name, value in found.items() if value},
    )
    url = None
    if push:
        assert repo_id is not None
        url = push_folder(
            folder,
            repo_id,
            private=private or None,
            commit_message="Model card and student",
            ignore_patterns=NOT_PUBLISHED,
        ).repo_url
    summary = {"card": str(path), "figures": len(record.figures), "url": None if url is None else str(url)}
    if as_json:
        echo(json.dumps(summary))
    else:
        echo(f"{path}: {summary['figures']} figures" + (f"\n{url}" if url else ""))
