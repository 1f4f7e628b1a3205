"""`hf-e2kd store`: a teacher's logits and explanations of a data set, computed once."""

import json
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..alignment.labels import class_names
from ..data import encode_labels
from ..data.text import check_texts
from ..experiments.sources import choose_explainer, load_classifier, load_split
from ..hub.ids import check_repo_id
from ..store import StoredReference
from ..store.files import STORE_FILE
from ..store.processes import launched_processes
from .options import explainer_options_of, is_given
from .output import echo, require_folder


def store(
    context: typer.Context,
    output_dir: Annotated[Path, typer.Argument(help="Folder of the store.")],
    teacher: Annotated[str, typer.Option(help="Hub id or folder of a classifier of images or texts.")],
    dataset: Annotated[
        str,
        typer.Option(help="Hub id, folder of images or data files, one such file, or saved by `save_to_disk`."),
    ],
    revision: Annotated[str | None, typer.Option(help="The teacher's revision on the Hub.")] = None,
    dataset_config: Annotated[str | None, typer.Option(help="The data set's configuration on the Hub.")] = None,
    split: Annotated[
        str | None, typer.Option(help="Split of the data set [train, or the only one].", show_default=False)
    ] = None,
    explainer: Annotated[
        str | None, typer.Option(help="Method; by default gradcam of images, integrated_gradients of texts.")
    ] = None,
    explainer_options: Annotated[
        str | None, typer.Option(metavar="JSON", help="The method's options.", show_default=False)
    ] = None,
    vectors: Annotated[
        bool, typer.Option("--vectors", help="Store a B-cos network's vectors too: 6×H×W numbers a sample.")
    ] = False,
    image_column: Annotated[str, typer.Option(help="Column of the images.")] = "image",
    text_columns: Annotated[
        list[str] | None,
        typer.Option(
            "--text-columns", "--text-column", help="Column of the texts [text]; twice for pairs.", show_default=False
        ),
    ] = None,
    label_column: Annotated[str, typer.Option(help="Column of the labels; it may be missing.")] = "label",
    id_column: Annotated[
        str | None, typer.Option(help="Column of unique ids; without it samples are known by their position.")
    ] = None,
    target: Annotated[
        Literal["teacher_top", "label", "positives"],
        typer.Option(help="Class to explain: the teacher's top, the label, or every positive label."),
    ] = "teacher_top",
    top_k: Annotated[int | None, typer.Option(min=1, help="Store only the largest logits, so many.")] = None,
    dtype: Annotated[Literal["float16", "float32"], typer.Option(help="Precision of logits and maps.")] = "float16",
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    num_workers: Annotated[int, typer.Option(min=0, help="Processes that load the data.")] = 0,
    rows_per_shard: Annotated[
        int, typer.Option(min=1, help="Samples of one file, which is what an interruption may cost.")
    ] = 4096,
    max_length: Annotated[int | None, typer.Option(min=1, help="Longest text in tokens.")] = None,
    push_to_hub: Annotated[str | None, typer.Option(metavar="USER/NAME", help="Publish the store there.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Publish it for yourself alone.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Read all files again and compare checksums.")] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code from the teacher's repository.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object.")] = False,
) -> None:
    """Store a teacher's logits and explanations of a data set, so that students train without the teacher.

    Show the teacher the data without augmentation. A building that was interrupted goes on where it stopped when the
    same command is given again. Several processes share the shards among them.

    \b
    Examples:
      hf-e2kd store --teacher microsoft/resnet-34 --dataset ./photos \\
          --split train maps
      hf-e2kd store --teacher textattack/bert-base-uncased-SST-2 \\
          --dataset stanfordnlp/sst2 --text-columns sentence \\
          --explainer integrated_gradients --explainer-options '{"n_steps": 16}' \\
          maps
      accelerate launch --num_processes 4 -m hf_e2kd.cli store --teacher … \\
          --dataset … maps
    """
    options = explainer_options_of(explainer, explainer_options)
    if not (output_dir / STORE_FILE).is_file():  # a finished one is loaded
        require_folder(output_dir)
    if push_to_hub is not None:
        check_repo_id(push_to_hub)
    state = launched_processes()
    # The others find what the first has downloaded.
    with state.main_process_first():
        loaded = load_classifier(teacher, revision, trust_remote_code)
        method = choose_explainer([loaded], explainer, options)
        texts = text_columns or ["text"]
        columns = [*(texts if loaded.is_text else [image_column]), *([id_column] if id_column else [])]
        # The default's may be missing, and not one that was named.
        columns += [label_column] if is_given(context, "label_column") else []
        data, _ = load_split(dataset, loaded.is_text, split, dataset_config, columns, default="train")
        if loaded.is_text:
            check_texts(data, texts, dataset)
        data = encode_labels(data, label_column, class_names(loaded.model))
    start = time.perf_counter()
    try:
        reference = StoredReference.build(
            loaded.model,
            data,
            output_dir,
            explainer=method,
            processing_class=loaded.processing_class,
            id_column=id_column,
            target=target,
            top_k=top_k,
            dtype=dtype,
            vectors=vectors,
            batch_size=batch_size,
            num_workers=num_workers,
            image_column=image_column,
            text_columns=texts,
            label_column=label_column,
            max_length=max_length,
            revision=revision,
            rows_per_shard=rows_per_shard,
        )
    except KeyboardInterrupt:
        echo(f"Interrupted. Finished shards stay in {output_dir}; the same command goes on from there.", err=True)
        raise typer.Exit(130) from None
    seconds = time.perf_counter() - start
    if state.is_main_process:
        if verify:
            reference.shards.check(verify=True)
        address = reference.push_to_hub(push_to_hub, private=private or None) if push_to_hub else None
        summary = summarise(reference, seconds, address)
        echo(json.dumps(summary) if as_json else as_text(summary))
    state.wait_for_everyone()
    state.destroy_process_group()


def summarise(reference: StoredReference, seconds: float, address: str | None) -> dict[str, Any]:
    """Summarise a store: sizes in bytes, the time in seconds, and where it is."""
    shards = reference.shards.infos
    size = sum(shard.bytes for shard in shards)
    key = reference.description["key"]
    return {
        "output_dir": str(reference.folder),
        "samples": len(reference.shards),
        "bytes": size,
        "bytes_per_sample": round(size / len(reference.shards), 1),
        "shards": len(shards),
        "seconds": round(seconds, 3),
        "teacher": key["teacher"]["name"],
        "explainer": key["explainer"]["name"],
        "url": address,
    }


def as_text(summary: dict[str, Any]) -> str:
    """Render the summary for a reader."""
    rows = {
        "Samples": f"{summary['samples']:,}",
        "Size": f"{summary['bytes']:,} bytes in {summary['shards']} shard{'s' * (summary['shards'] != 1)}",
        "A sample": f"{summary['bytes_per_sample']:,.0f} bytes",
        "Time": f"{summary['seconds']:.1f} s",
        "Where": summary["output_dir"],
        "Hub": summary["url"],
    }
    return "\n".join(f"{name:<9} {value}" for name, value in rows.items() if value is not None)
