"""`hf-e2kd viewer`: teacher and student side by side."""

from pathlib import Path
from typing import Annotated

import typer

from .options import explainer_options_of
from .output import echo, require_folder


def viewer(
    teacher: Annotated[str, typer.Option(help="Hub id or folder of a classifier of images or texts.")],
    student: Annotated[str, typer.Option(help="Hub id or folder of a classifier of the same kind of data.")],
    teacher_revision: Annotated[str | None, typer.Option(help="The teacher's revision on the Hub.")] = None,
    student_revision: Annotated[str | None, typer.Option(help="The student's revision on the Hub.")] = None,
    dataset: Annotated[
        str | None,
        typer.Option(help="Samples to browse: Hub id, folder of images or data files, or saved by `save_to_disk`."),
    ] = None,
    dataset_config: Annotated[str | None, typer.Option(help="The data set's configuration on the Hub.")] = None,
    split: Annotated[
        str | None, typer.Option(help="Split of the data set [validation, or the only one].", show_default=False)
    ] = None,
    samples: Annotated[int, typer.Option(min=1, max=500, help="Samples that are compared, drawn at random.")] = 64,
    explainer: Annotated[
        str | None,
        typer.Option(
            help="Method that is chosen at first; by default gradcam of images, integrated_gradients of texts."
        ),
    ] = None,
    explainer_options: Annotated[
        str | None, typer.Option(metavar="JSON", help="That method's options.", show_default=False)
    ] = None,
    image_column: Annotated[str, typer.Option(help="Column of the images.")] = "image",
    text_column: Annotated[
        list[str] | None,
        typer.Option("--text-column", "--text-columns", help="Column of the texts [text].", show_default=False),
    ] = None,
    label_column: Annotated[str, typer.Option(help="Column of the labels; it may be missing.")] = "label",
    host: Annotated[str, typer.Option(help="Address to serve at; 0.0.0.0 for the whole network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to serve at.")] = 7860,
    share: Annotated[
        bool, typer.Option("--share", help="Open the page to everyone who has its link, through gradio's servers.")
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write the comparisons as a page into a folder, and serve nothing."),
    ] = None,
    export_space: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write a Hugging Face Space that serves the page; models by Hub id."),
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code from the models' repositories.")
    ] = False,
) -> None:
    """Show what teacher and student decide and where they look, side by side.

    On the page one drops an image or types a sentence, chooses explainer and class, and browses a data set in the order
    of disagreement. The page needs gradio (pip install 'hf-e2kd[viewer]'); a report doesn't. Nothing is sent anywhere,
    unless --share is given.

    \b
    Examples:
      hf-e2kd viewer --teacher microsoft/resnet-50 --student ./student
      hf-e2kd viewer --teacher ./teacher --student ./student --dataset ./photos \\
          --samples 100 --report disagreement
      hf-e2kd viewer --teacher USER/TEACHER --student USER/STUDENT \\
          --export-space space
    """
    options = explainer_options_of(explainer, explainer_options)
    if report is not None and export_space is not None:
        raise typer.BadParameter("--report and --export-space are two things. Give one of them.")
    if report is not None and dataset is None:
        raise typer.BadParameter("--report needs --dataset, whose samples it shows.")
    for folder in (report, export_space):
        if folder is not None:
            require_folder(folder)
    if len(text_column or ()) > 1:
        raise typer.BadParameter(
            "the viewer shows single texts, and --text-column names a pair. hf-e2kd fidelity measures pairs, and "
            "hf-e2kd explain --text … --text-pair … shows them."
        )
    from ..viewer.settings import Settings

    settings = Settings(
        teacher=teacher,
        student=student,
        teacher_revision=teacher_revision,
        student_revision=student_revision,
        dataset=dataset,
        dataset_config=dataset_config,
        split=split,
        samples=samples,
        explainer=explainer,
        explainer_options=options,
        image_column=image_column,
        text_column=(text_column or ["text"])[0],
        label_column=label_column,
        trust_remote_code=trust_remote_code,
    )
    if export_space is not None:
        from ..viewer.space import export_space as export

        folder = export(settings, export_space)
        echo(f"{folder} is ready. Publish it: hf upload USER/NAME {folder} --repo-type space")
    elif report is not None:
        from ..viewer.report import report_of

        echo(str(report_of(settings, report)))
    else:
        from ..viewer.app import launch

        launch(settings, server_name=host, server_port=port, share=share)
