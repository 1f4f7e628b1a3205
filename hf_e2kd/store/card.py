"""The card of a store that is published as a data set."""

import json
from collections.abc import Mapping
from typing import Any

from huggingface_hub import DatasetCardData

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
from hf_e2kd import ExplanationDistillTrainer
from hf_e2kd.references import StoredReference

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


def store_card(description: Mapping[str, Any], repo_id: str, license: str | None = None) -> str:
    """README.md of a store: metadata for the Hub, what it was built with, and how to load it.

    Args:
        description: Content of store.json.
        repo_id: Where it is published.
        license: The Hub's name of the license; that of the teacher and the data, if they have one.
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
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": "shard-*.arrow"}]}],
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
    """Of an image's maps, and of its vectors where they are stored."""
    cells = f"{'×'.join(str(side) for side in fields['map']['shape'][-2:])} cells"
    if "vectors" not in fields:
        return cells
    return f"{cells}, and vectors of {fields['vectors']['shape'][-3]} channels"
