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

from hf_e2kd.studies import run_side_by_side
from hf_e2kd.studies.demo import BERT_ON_REVIEWS as SETTING

if __name__ == "__main__":
    run_side_by_side(SETTING, "distill_bert", __doc__)
