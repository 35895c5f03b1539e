"""Chunks of actions: who plans them, and who cannot."""

from __future__ import annotations

from cpl_bench.core.errors import UserError
from cpl_bench.learning.config import MethodConfig, PolicyConfig


def chunk_of(config: MethodConfig) -> int:
    """Actions that one look decides, as a method's `policy: PolicyConfig` has it."""
    policy = getattr(config, "policy", None)
    return policy.chunk if isinstance(policy, PolicyConfig) else 1


def refuse_for_values(policy: PolicyConfig, method: str, own_std: bool = False) -> None:
    """Refuse chunks to a method whose values judge actions one by one, and a second σ.

    Raises:
        UserError: the policy plans chunks, or learns a σ where the method has its `own_std`.
    """
    if policy.chunk > 1:
        raise UserError(
            f"policy.chunk must be 1, not {policy.chunk}: {method} learns what single actions are "
            "worth, and those of a chunk come together. Chunks are for cloning and CPL."
        )
    if own_std and policy.variance == "learned":
        raise UserError(f"policy.variance must be fixed: {method} has a σ of its own, see std.")
