"""Registry of terms by name."""

from typing import Any

from ..explainers.registry import construct
from .base import Term
from .feature_reduction import FeatureReduction
from .features.activation_boundary import ActivationBoundary
from .features.attention_transfer import AttentionTransfer
from .features.cat_kd import ClassAttentionTransfer
from .features.crd import CRD
from .features.factor_transfer import FactorTransfer
from .features.hint import Hint
from .features.nst import NeuronSelectivityTransfer
from .features.review_kd import ReviewKD
from .features.sskd import SSKD
from .guidance import Guidance
from .logits import Logits
from .maps import Maps
from .task import Task

_TERMS: dict[str, type[Term]] = {
    term.name: term
    for term in (
        ActivationBoundary,
        AttentionTransfer,
        ClassAttentionTransfer,
        CRD,
        FactorTransfer,
        FeatureReduction,
        Guidance,
        Hint,
        Logits,
        Maps,
        NeuronSelectivityTransfer,
        ReviewKD,
        SSKD,
        Task,
    )
}

BUILT_IN = frozenset({"task", "logits", "maps", "explanation", "guidance"})
"""Names of the terms that every training has, weighed by arguments of their own."""


def register_term(term: type[Term]) -> None:
    """Register a term by its `name`, for the argument `terms`.

    Args:
        term: Subclass of `Term`; the options of its constructor become the term's options.

    Raises:
        ValueError: something else than a subclass of `Term` with a name.
    """
    if not (isinstance(term, type) and issubclass(term, Term) and getattr(term, "name", None)):
        raise ValueError(f"A term is registered by its class, a subclass of `Term` with a `name`, not by {term!r}.")
    _TERMS[term.name] = term


def available_terms() -> list[str]:
    """List the names of the terms."""
    return sorted(_TERMS)


def term_citation(name: str) -> str | None:
    """The BibTeX entry of a term's paper; None of a term without one, or that isn't known here."""
    term = _TERMS.get(name)
    return None if term is None else term.citation


def build_term(name: str, **options: Any) -> Term:
    """Build a term by name.

    Raises:
        ValueError: unknown name or option; the message lists the valid ones.
    """
    return construct("term", _TERMS, name, options)
