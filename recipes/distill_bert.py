# /// script
# requires-python = ">=3.10"
# dependencies = ["hf-e2kd"]
# [tool.uv.sources]
# hf-e2kd = { path = "..", editable = true }
# ///
"""Distil a BERT into one with fewer layers that reads as its teacher reads (Integrated Gradients), beside plain
distillation and training without a teacher.

Without arguments: the embedded reviews, in which a film's genre predicts the sentiment in the student's training data
and not at test. With --teacher and --dataset: any fine-tuned encoder on any labelled texts; on the Stanford Sentiment
Treebank the words' own labels say which words should count. Several seeds, and a teacher that is fine-tuned first:
`hf-e2kd distill --demo bert --seeds 3`, `hf-e2kd distill --help`.

    accelerate launch recipes/distill_bert.py
    accelerate launch recipes/distill_bert.py --explanation_weight 2 --pictures 0
    accelerate launch recipes/distill_bert.py --teacher textattack/bert-base-uncased-SST-2 \\
        --dataset PATH_OF_THE_TREES --eval_split test --student_layers 6 --output_dir outputs/sst
"""

import copy
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    HfArgumentParser,
    set_seed,
)

from hf_e2kd import ExplanationDistillArguments, ExplanationDistillTrainer, TextCollator
from hf_e2kd import experiments as ex
from hf_e2kd.alignment.labels import class_names
from hf_e2kd.architectures.sharding import whole
from hf_e2kd.data import encode_labels, reviews_with_hints, train_tokenizer
from hf_e2kd.data.images import label_names
from hf_e2kd.data.text import load_texts
from hf_e2kd.hub.upload import create_repo
from hf_e2kd.trainer.preemption import last_checkpoint

REVIEWS: dict[str, Any] = {"correlation": 0.9}
VOCABULARY = 700
TEACHER: dict[str, Any] = {
    **{"hidden_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 192},
    # So small a model, trained from nothing on clean labels, learns sooner without dropout and from larger weights.
    **{"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.05},
    "max_position_embeddings": 128,
}

# Training arguments where the command line says nothing else: on the reviews, and of pretrained models
ON_REVIEWS = {"learning_rate": 1.5e-3, "num_train_epochs": 8}
PRETRAINED = {"learning_rate": 1e-4, "num_train_epochs": 20}


@dataclass
class ScriptArguments:
    teacher: str | None = field(default=None, metadata={"help": "Hub id or folder of the teacher."})
    dataset: str | None = field(default=None, metadata={"help": "Hub id, folder of data files, or of the treebank."})
    student: str | None = field(default=None, metadata={"help": "Hub id or folder; else some of the teacher's layers."})
    student_layers: int = field(default=2, metadata={"help": "Number of the teacher's layers."})
    train_split: str = field(default="train", metadata={"help": "Split to distil on."})
    eval_split: str = field(default="validation", metadata={"help": "Split to measure on."})
    text_column: list[str] = field(
        default_factory=lambda: ["text"], metadata={"help": "Column of the texts; two for pairs."}
    )
    label_column: str = field(default="label", metadata={"help": "Column of the labels."})
    max_length: int = field(default=128, metadata={"help": "Longest input in tokens."})
    explained_samples: int = field(default=300, metadata={"help": "Texts of each evaluation that are explained."})
    pictures: int = field(default=3, metadata={"help": "Texts in the picture of the explanations; 0 draws none."})

    def __post_init__(self) -> None:
        if (self.teacher is None) != (self.dataset is None):
            raise ValueError("--teacher and --dataset belong together.")


def main() -> dict[str, Any]:
    given = ex.command_line(ScriptArguments, ExplanationDistillArguments)
    parser = HfArgumentParser((ScriptArguments, ExplanationDistillArguments), description=__doc__, allow_abbrev=False)
    parser.set_defaults(output_dir="outputs/distill_bert", lr_scheduler_type="cosine", logging_strategy="epoch")
    parser.set_defaults(save_strategy="no", report_to="none", weight_decay=0.01, warmup_steps=0.1)
    parser.set_defaults(per_device_train_batch_size=32, per_device_eval_batch_size=64)
    parser.set_defaults(explainer="integrated_gradients", explanation_fraction=0.4, temperature=4.0)
    # Explaining every text of an evaluation would cost more than the training: `words` explains a sample.
    parser.set_defaults(task_weight=0.5, logits_weight=0.5, evaluate_explanations=False)
    parser.set_defaults(**ex.surroundings())
    parser.set_defaults(**(PRETRAINED if any(word.startswith("--dataset") for word in given) else ON_REVIEWS))
    try:
        script, args = parser.parse_args_into_dataclasses(given)
    except ValueError as error:
        parser.error(str(error))
    output, start = Path(args.output_dir), time.monotonic()
    repo_id = create_repo(args) if args.push_to_hub else None
    set_seed(args.seed)

    # Data and models
    columns = {"label_column": script.label_column, "max_length": script.max_length}
    if script.dataset is None:
        ex.use_one_thread()
        splits = reviews_with_hints(seed=args.seed, **REVIEWS)
        train = splits["student_train"]
        evaluations = {"in_distribution": splits["test_id"], "out_of_distribution": splits["test_ood"]}
        tokenizer = teacher_tokenizer = train_tokenizer(splits["teacher_train"]["text"], VOCABULARY)
        labels = ex.label_settings(label_names(train), 4)
        config = BertConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **TEACHER, **labels)
        teacher = ex.train_on_labels(
            BertForSequenceClassification(config),
            ex.replace_arguments(args, num_train_epochs=6),
            # The genres of the teacher's own data say nothing of the class.
            splits["teacher_train"],
            tokenizer,
            TextCollator(tokenizer, **columns),
        )
        if args.process_index == 0:
            teacher.save_pretrained(output / "teacher")
            tokenizer.save_pretrained(output / "teacher")
        student = ex.shallow_copy_of(teacher, script.student_layers, "random")
    else:
        split_names = (script.train_split, script.eval_split)
        train, evaluation = load_texts(script.dataset, *split_names, script.text_column, script.label_column)
        teacher = ex.load_trained(AutoModelForSequenceClassification, script.teacher)
        names = class_names(teacher)
        train, evaluation = (encode_labels(data, script.label_column, names) for data in (train, evaluation))
        evaluations = {"evaluation": evaluation}
        tokenizer = teacher_tokenizer = AutoTokenizer.from_pretrained(script.teacher)
        if script.student is None:
            student = ex.shallow_copy_of(teacher, script.student_layers, "teacher-layers")
        else:
            tokenizer = AutoTokenizer.from_pretrained(script.student)
            stated = label_names(train, script.label_column)
            # Of labels without names the student decides as the teacher does, for one class or for each by itself.
            problem = teacher.config.problem_type if stated is None else None
            own = (stated or names, teacher.config.num_labels)
            student = ex.load_text_classifier(script.student, *own, problem_type=problem)
    words = ex.WordStudy(
        **{"teacher": teacher, "teacher_tokenizer": teacher_tokenizer, "tokenizer": tokenizer},
        **{"evaluations": evaluations, "explainer": ex.explainer_of(args), "samples": script.explained_samples},
        **{"text_columns": script.text_column, "batch_size": args.per_device_eval_batch_size, **columns},
    )

    # Without a teacher, plain distillation and e²KD, from the same initial weights on the same batches
    run: dict[str, Any] = {"seed": args.seed, "teacher": {}}
    students = {}
    for name, changes in {
        "scratch": {"task_weight": 1.0, "logits_weight": 0.0, "explanation_weight": 0.0, "terms": None},
        "KD": {"explanation_weight": 0.0},
        "e²KD": {},
    }.items():
        folder = output / ("student" if name == "e²KD" else f"student-{name.lower()}")
        changes |= {"output_dir": str(folder), "push_to_hub": False, "hub_model_id": repo_id}
        trainer = ExplanationDistillTrainer(
            copy.deepcopy(student),
            ex.replace_arguments(args, **changes),
            train_dataset=train,
            eval_dataset=evaluations,
            processing_class=tokenizer,
            data_collator=TextCollator(tokenizer, teacher_tokenizer, script.text_column, **columns),
            teacher_model=teacher,
        )
        # With --save_strategy epoch, --resume_from_checkpoint true goes on from each student's last checkpoint.
        trainer.train(resume_from_checkpoint=last_checkpoint(folder) if args.resume_from_checkpoint else None)
        students[name] = whole(trainer.student)
        run[name] = {}
        for split, data in evaluations.items():
            metrics = trainer.evaluate(data, metric_key_prefix=split)
            taught = ex.measured_metrics(metrics, f"{split}_teacher_")
            run["teacher"][split] = taught | words.measure(teacher, split)
            run[name][split] = ex.measured_metrics(metrics, f"{split}_") | words.measure(students[name], split)
        trainer.save_model()

    # The e²KD student, which the last trainer holds, with its picture and its card
    picture = "explanations.png" if script.pictures else None
    if picture and trainer.is_world_process_zero():
        words.picture(students, script.pictures, folder)
    known = ("reviews_with_hints", {"seed": args.seed, **REVIEWS}, "apache-2.0")
    record = trainer.measure_fidelity(
        samples=script.explained_samples,
        seed=args.seed,
        compared={"no teacher": students["scratch"], "plain KD": students["KD"]},
        data=None if script.dataset else ex.generated_data(*known, split="test_ood"),
    )
    record = ex.with_word_plots(record, run, list(evaluations)[-1], len(record.data.samples))
    if script.dataset is None:
        # Where the teacher lies, which `hf-e2kd fidelity --verify` is given by --teacher.
        training = replace(record.training, data=ex.generated_data(*known, split="student_train"))
        record = replace(record, teacher=replace(record.teacher, path="../teacher"), training=training)
    if args.push_to_hub:
        trainer.push_to_hub(fidelity=record, picture=picture)
    else:
        trainer.create_model_card(fidelity=record, picture=picture, model_name=output.name)
    results = ex.collect_results(args, [run], start, recipe="distill_bert", sources=vars(script))
    if trainer.is_world_process_zero():
        ex.write_results(results, output)
        print(f"\n{ex.markdown_table(results['summary'])}")
        print(f"\nIn {output}: student, student-kd, student-scratch, results.json")
    return results


if __name__ == "__main__":
    ex.run_recipe(main)
