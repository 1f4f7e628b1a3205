"""A store as a data set on the Hub: its card, its upload and its download."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCardData, snapshot_download

from ..hub.ids import check_repo_id
from ..hub.upload import push_folder
from .files import STORE_FILE, write_json, write_text
from .key import public_key

_SHARDS = "shard-*.arrow"
_FILES = [_SHARDS, STORE_FILE, "README.md"]

_SIZES = ((1e3, "n<1K"), (1e4, "1K<n<10K"), (1e5, "10K<n<100K"), (1e6, "100K<n<1M"), (1e7, "1M<n<10M"))

_TEMPLATE = """---
{metadata}
---

# {title}

Logits and explanations of the teacher `{teacher}`, computed once for each of {count:,} samples, so that students can be
distilled from them without the teacher (e²KD, Parchami-Araghi et al., ECCV 2024).

| | |
|---|---|
| Teacher | `{teacher}`{revision} |
| SHA-256 of its weights | `{weights}` |
| Explainer | `{explainer}`, options `{options}` |
| Explained class | {target} |
| Logits | {logits} |
| Maps | {maps} |
| Samples are known by | {ids} |
| Size | {bytes:,} bytes in {shards} shards, {each:,.0f} a sample |

The maps belong to the samples as the teacher's processor shows them, without augmentation.

## How to use it

```python
from hf_e2kd import ExplanationDistillTrainer, StoredReference

reference = StoredReference.from_hub("{repo_id}")
trainer = ExplanationDistillTrainer(
    student, args, train_dataset=reference.attach(train_dataset), references={{"teacher": reference}}
)
```

`reference.check(teacher, processing_class, explainer)` says whether a teacher is the one that was stored.

## Files

`store.json` states the columns' types and shapes, the classes, and each shard's SHA-256. The shards are Arrow streams
with the column `id` and columns of little-endian numbers as bytes.
"""


def upload_store(
    folder: Path,
    description: Mapping[str, Any],
    repo_id: str,
    *,
    private: bool | None,
    license: str | None,
    token: str | bool | None,
    commit_message: str,
) -> tuple[str, dict[str, Any]]:
    """Publish a store with a card, as `StoredReference.push_to_hub` says.

    Returns:
        Its address, and the description as it is published.
    """
    check_repo_id(repo_id)
    published = {**description, "key": public_key(description["key"])}
    if published != description:
        write_json(folder / STORE_FILE, published)
    write_text(folder / "README.md", store_card(published, repo_id, license))
    commit = push_folder(
        folder,
        repo_id,
        repo_type="dataset",
        private=private,
        token=token,
        commit_message=commit_message,
        allow_patterns=_FILES,
        # Those of a larger store that was published there before: the card's configuration names them all.
        delete_patterns=[_SHARDS],
    )
    return str(commit.repo_url), published


def download_store(repo_id: str, revision: str | None, token: str | bool | None) -> str:
    """Download a published store into the Hub's cache, and return its folder."""
    return snapshot_download(repo_id, repo_type="dataset", revision=revision, token=token, allow_patterns=_FILES)


def store_card(description: Mapping[str, Any], repo_id: str, license: str | None = None) -> str:
    """The README.md of a store: metadata for the Hub, what it was built with, and how to load it.

    Args:
        description: Content of store.json.
        repo_id: Id of the data set on the Hub.
        license: Identifier of the license on the Hub; that of the teacher and the data, if they have one.
    """
    key, fields = description["key"], description["fields"]
    count = description["count"]
    is_text = description["layout"] == "text"
    metadata = DatasetCardData(
        license=license,
        pretty_name=f"Explanations of {key['teacher']['name']}",
        task_categories=["text-classification" if is_text else "image-classification"],
        size_categories=next((name for most, name in _SIZES if count < most), "n>10M"),
        tags=["hf_e2kd", "knowledge-distillation", "explainability", key["explainer"]["name"]],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": _SHARDS}]}],
    )
    total = sum(shard["bytes"] for shard in description["shards"])
    top_k = key["precision"]["top_k"]
    dtype = key["precision"]["dtype"]
    classes = key["teacher"]["num_classes"]
    column = description["ids"]["column"]
    revision = key["teacher"]["revision"]
    kept = f"the largest {top_k} of {classes} classes" if top_k else f"all {classes} classes"
    return _TEMPLATE.format(
        metadata=metadata.to_yaml(),
        title=repo_id.split("/")[-1],
        teacher=key["teacher"]["name"],
        revision=f", revision `{revision}`" if revision else "",
        weights=key["teacher"]["weights"],
        count=count,
        explainer=key["explainer"]["name"],
        options=json.dumps(key["explainer"]["options"]),
        target={"teacher_top": "the teacher's top class", "label": "the label", "positives": "each positive label"}[
            key["target"]["rule"]
        ],
        logits=f"{dtype}, {kept}",
        maps=f"{dtype}, scores of tokens with their characters" if is_text else f"{dtype}, {_sizes(fields)}",
        ids=f"the column `{column}`" if column else "their position in the data set, whose order must not change",
        bytes=total,
        shards=len(description["shards"]),
        each=total / count,
        repo_id=repo_id,
    )


def _sizes(fields: Mapping[str, Any]) -> str:
    """The sizes of an image's maps, and of its vectors where they are stored."""
    cells = f"{'×'.join(str(side) for side in fields['map']['shape'][-2:])} cells"
    if "vectors" not in fields:
        return cells
    return f"{cells}, and vectors of {fields['vectors']['shape'][-3]} channels"
