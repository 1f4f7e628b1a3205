"""Rules of a transposed pass: what each kind of layer hands back to its input."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Rules:
    """The local rules of a transposed pass, which otherwise is the derivative's.

    Args:
        through_weights: Propagate through attention's softmax to queries and keys, and through a gate's activation to
            its input. Otherwise attention weights and gates are constants.
        uniform: Share what belongs to a product equally between its two factors, where each would get all of it.
        linearised: Hold a norm's denominator constant, and take an activation f as the product x · f(x)/x with a
            constant second factor, so that neither creates nor loses relevance.
    """

    through_weights: bool = True
    uniform: bool = False
    linearised: bool = False


DERIVATIVE = Rules()
"""The ordinary derivative: the pass is reverse-mode differentiation, written out."""

RULES = {
    "cp": Rules(through_weights=False, linearised=True),
    "attn_lrp": Rules(uniform=True, linearised=True),
}
"""Sets of rules by name: `"cp"` of Ali et al. (ICML 2022), `"attn_lrp"` of Achtibat et al. (ICML 2024)."""
