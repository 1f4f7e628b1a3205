"""Distils a BERT into one with fewer layers that reads as its teacher reads (Integrated Gradients), beside plain
distillation and training without a teacher.

Without arguments: the embedded reviews, in which a film's genre predicts the sentiment in the student's training data
and not at test. With --teacher and --dataset: any encoder, fine-tuned on any labelled texts; on the Stanford Sentiment
Treebank the words' own labels say which words should count.

    accelerate launch recipes/distill_bert.py
    accelerate launch recipes/distill_bert.py --seeds 3
    accelerate launch recipes/distill_bert.py --teacher google-bert/bert-base-uncased --dataset PATH_OF_THE_TREES \\
        --eval_split test --student_layers 6 --seeds 3 --output_dir outputs/sst
"""

from transformers import BertConfig

from hf_e2kd.studies import TextSetting, run_side_by_side

SETTING = TextSetting(
    teacher=BertConfig(
        hidden_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=192,
        max_position_embeddings=128,
        # So small a model, trained from nothing on clean labels, learns sooner without dropout and from larger weights.
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.05,
    ),
    data={"correlation": 0.9},
    vocab_size=700,
    teacher_training={"num_train_epochs": 6},
    student_training={
        "num_train_epochs": 8,
        "per_device_train_batch_size": 32,
        "learning_rate": 1.5e-3,
        "warmup_steps": 0.1,
        "weight_decay": 0.01,
        "explanation_weight": 1.0,
    },
)

if __name__ == "__main__":
    run_side_by_side(SETTING, "distill_bert", __doc__)
