"""Finds the weight λ of the explanation loss: accuracy, agreement and similarity over λ, as a Pareto front.

Without arguments: the embedded digits on textured backgrounds. The figures of the chosen λ are those it was chosen by;
measure it anew, on other data, before you report it.

    accelerate launch recipes/search_weight.py
    accelerate launch recipes/search_weight.py --weights 0.1 100 --sampler random --trials 20
    accelerate launch recipes/search_weight.py --teacher microsoft/resnet-50 --student microsoft/resnet-18 \\
        --dataset ethz/food101 --output_dir outputs/food101_search
    accelerate launch recipes/search_weight.py --smoke
"""

from hf_e2kd.studies.demo import RESNET_ON_DIGITS
from hf_e2kd.studies.weight_search import SearchSetting, run_search

# As in distill_resnet.py, but for λ.
SETTING = SearchSetting(**vars(RESNET_ON_DIGITS))

if __name__ == "__main__":
    run_search(SETTING, "search_weight", __doc__)
