"""State for each advantage, whitening and loss aggregation what remains of the gradient of a KL.

`truth_table` is about the KL of one completion. An optimizer step also subtracts a baseline, divides by deviations and
lengths, and averages. The objective is E_π[score] − kl_coef·KL(π‖ref), its optimum π* ∝ ref·exp(score/kl_coef). The
statements hold on fresh samples (one epoch per rollout) and for scores that are functions of the completion. Each one is
compared with the enumeration of `trl_ext.kl_audit.steps` in tests/rl/test_step_table.py. docs/rl.md has the proofs.
"""

from dataclasses import dataclass, replace

from trl_ext.rl import truth_table

EXACT = "exact"
FACTOR = "exact up to a constant factor"
LARGE_BATCH = "exact up to a factor for large batches"
OTHER_COEFFICIENT = "that of another KL coefficient"
SAME_OPTIMUM = "another gradient, zero at the same optimum"
BIASED = "another gradient and another optimum"

OBJECTIVE = "E[score] − kl_coef·KL(π‖ref)"
VERDICTS = {
    EXACT: f"The expected gradient of a step is that of {OBJECTIVE}.",
    FACTOR: f"The expected gradient of a step is that of {OBJECTIVE} times a positive constant.",
    LARGE_BATCH: f"The expected gradient of a step approaches that of {OBJECTIVE}, times a positive factor, as the number of "
    "completions per step grows.",
    OTHER_COEFFICIENT: "The expected gradient of a step is that of the objective with another KL coefficient, exactly or for "
    "large batches.",
    SAME_OPTIMUM: f"The expected gradient of a step is not that of {OBJECTIVE}, but it is zero at the same optimum π*.",
    BIASED: f"The expected gradient of a step is not that of {OBJECTIVE}, and it is not zero at the optimum π*.",
}
"""What each verdict means. A later one is weaker."""

SHORT = {
    EXACT: "exact",
    FACTOR: "factor",
    LARGE_BATCH: "large batch",
    OTHER_COEFFICIENT: "coefficient",
    SAME_OPTIMUM: "optimum",
    BIASED: "biased",
}
"""The verdicts as entries of a table."""

COMPARED = ("rloo", "grpo", "dr_grpo", "reinforce_pp_baseline", "opo")
"""Advantages that compare the totals of a prompt's completions. They are zero where these are equal."""
TO_GO = ("reinforce_pp", "remax")
"""Advantages of the rewards from each token on."""
ADVANTAGES = ("gae", *COMPARED, *TO_GO)
"""The advantages that the table knows."""
DISCOUNTED = ("gae", "reinforce_pp")
"""Advantages that read `gamma`."""

AGGREGATIONS = ("sum", "constant", "token", "sequence")

KLS = (("k1", "reward", "token"), ("k2", "loss", "sequence"))
"""The cells with the gradient of the reverse KL for which steps are tabulated. Others differ only as `truth_table` says."""
VARIANTS = tuple(
    (name, scale) for name in ADVANTAGES for scale in (("group", "batch", "none") if name == "grpo" else ("group",))
)
"""Advantages with the values of `scale_rewards` that change them."""


@dataclass(frozen=True)
class Step:
    """Settings that decide what a step estimates.

    Attributes:
        estimator, placement, level: As for `truth_table.bias`.
        advantage: A name of `trl_ext.rl.advantages`.
        aggregation: A key of `trl_ext.rl.aggregation.AGGREGATIONS`.
        is_whitened: Advantages are whitened over the batch. A KL coefficient in the loss is then divided by the same
            deviation.
        scale_rewards: By what `grpo` divides: the deviation of the `group` or of the `batch`, or `none`.
        ratio_level: `token`, or the ratio of whole sequences (`sequence`, `sequence_sum`).
        gamma, lam: Of the advantages that read them.
    """

    estimator: str = "k1"
    placement: str = "reward"
    level: str | None = None
    advantage: str = "gae"
    aggregation: str = "token"
    is_whitened: bool = False
    scale_rewards: str = "group"
    ratio_level: str = "token"
    gamma: float = 1.0
    lam: float = 1.0

    @property
    def cell(self) -> tuple[str, str, str]:
        """The cell of `truth_table`."""
        return self.estimator, self.placement, truth_table.check(self.estimator, self.placement, self.level)

    @property
    def is_in_reward(self) -> bool:
        return self.placement == "reward"

    @property
    def has_advantages_of_tokens(self) -> bool:
        """Whether the tokens of a completion have different advantages."""
        return self.advantage == "gae" or (self.advantage in TO_GO and self.is_in_reward and self.cell[2] == "token")

    @property
    def vanishes_at_optimum(self) -> bool:
        """Whether every advantage is zero at π*, whatever the samples.

        There score − kl_coef·d of every completion is the same number. The rewards to go of a KL per token still differ
        from state to state, and only a critic (assumed to be right) subtracts that difference.
        """
        is_flat = self.advantage == "gae" or not self.has_advantages_of_tokens
        return self.is_in_reward and self.cell in truth_table.EXACT and self._discount == 1 and is_flat

    @property
    def _discount(self) -> float:
        return self.gamma if self.advantage in DISCOUNTED else 1.0

    @property
    def _deviation(self) -> str | None:
        """The deviation by which the advantage divides rewards: of the `group` or of the `batch`."""
        if self.advantage == "grpo" and self.scale_rewards != "none":
            return self.scale_rewards
        return "batch" if self.advantage in ("reinforce_pp", "reinforce_pp_baseline") else None

    @property
    def _contains_itself(self) -> bool:
        """Whether the baseline is the mean of the group, the completion included."""
        return self.advantage in ("grpo", "dr_grpo", "reinforce_pp_baseline")


@dataclass(frozen=True)
class Judgement:
    """What a step estimates.

    Attributes:
        verdict: A key of `VERDICTS`.
        reasons: One sentence for each part of the step that changes the gradient.
        coefficient: The KL coefficient of the objective whose gradient it is.
    """

    verdict: str
    reasons: tuple[str, ...] = ()
    coefficient: str = "kl_coef"

    @property
    def in_words(self) -> str:
        """The verdict in a few words."""
        return f"that of {self.coefficient}" if self.verdict == OTHER_COEFFICIENT else self.verdict

    @property
    def meaning(self) -> str:
        """The verdict in a sentence, with the KL coefficient if that is another one."""
        if self.verdict != OTHER_COEFFICIENT:
            return VERDICTS[self.verdict]
        where = f"{self.coefficient} in place of kl_coef"
        if "G" in self.coefficient:
            where += " and G completions per prompt"
        return f"The expected gradient of a step is that of the objective with {where}."


def judge(step: Step) -> Judgement | None:
    """What a step with these settings estimates; `None` for an advantage that the table does not know.

    Raises:
        ValueError: A name of the KL is unknown.
    """
    step.cell  # noqa: B018  checks the names
    if step.advantage not in ADVANTAGES:
        return None
    parts = [
        part for part in (_kl(step), _discount(step), _advantage(step), _whitening(step), _averaging(step)) if part
    ]
    order = list(VERDICTS)
    verdict = max((verdict for verdict, _ in parts), key=order.index, default=EXACT)
    coefficient = "kl_coef"
    if verdict == OTHER_COEFFICIENT:
        coefficient += "·σ" * (step._deviation is not None) + "·G/(G−1)" * step._contains_itself
    return Judgement(verdict, tuple(reason for _, reason in parts if reason), coefficient)


def rows(placement: str) -> list[tuple[str, list[Step]]]:
    """Rows of a table for a placement of the KL: the name of an advantage, and a step for each of `AGGREGATIONS`."""
    cell = next(cell for cell in KLS if cell[1] == placement)
    return [
        (
            f"{name}, scale_rewards {scale}" if name == "grpo" else name,
            [Step(*cell, name, aggregation, scale_rewards=scale) for aggregation in AGGREGATIONS],
        )
        for name, scale in VARIANTS
    ]


def entry(step: Step) -> Step | None:
    """The step of `rows` that stands for these settings; `None` if there is none.

    The table has no whitening, discounts or ratios of sequences, and k1 in the reward per token. Where these make no
    difference to the verdict, the entry stands for them too.
    """
    if step.cell not in truth_table.EXACT or step.advantage not in ADVANTAGES:
        return None
    cell = next(cell for cell in KLS if cell[1] == step.placement)
    scale = step.scale_rewards if step.advantage == "grpo" else "group"
    found = Step(*cell, step.advantage, step.aggregation, scale_rewards=scale)
    return found if judge(found).verdict == judge(step).verdict else None


Part = tuple[str, str] | None
"""The verdict that a part of the step allows, and the reason in a sentence."""


def _kl(step: Step) -> Part:
    if step.cell in truth_table.EXACT:
        return None
    return BIASED, f"{_sentence(truth_table.REASONS[step.cell[:2]])}"


def _discount(step: Step) -> Part:
    if step.is_in_reward and step._discount != 1:
        return BIASED, f"With gamma {step.gamma:g} the KL of later tokens counts less."
    if step.advantage == "gae" and step.lam != 1:
        return EXACT, f"With lam {step.lam:g} the gradient is as good as the critic: it is exact for the true values."
    return None


def _advantage(step: Step) -> Part:
    name, at_optimum = (
        step.advantage,
        "At π* all rewards of a prompt, KL included, are equal, so the advantages are zero.",
    )
    if name == "opo":
        reason = "The baseline of opo contains the completion's own reward, weighted by its length."
        return (SAME_OPTIMUM, f"{reason} {at_optimum}") if step.is_in_reward else (BIASED, reason)
    if step._deviation == "group":
        reason = (
            "grpo divides rewards by the standard deviation of their group, which depends on the completion itself."
        )
        if step.is_in_reward:
            return SAME_OPTIMUM, f"{reason} {at_optimum}"
        return BIASED, f"{reason} The KL is not divided, so its weight differs from group to group."
    if step._deviation == "batch":
        own = " and subtracts a mean that contains the completion's own reward" if step._contains_itself else ""
        reason = f"{name} divides rewards by their standard deviation σ over the batch{own}."
        if step.is_in_reward:
            return LARGE_BATCH, reason
        return OTHER_COEFFICIENT, f"{reason} The KL is not divided, and σ changes during training."
    if step._contains_itself:
        reason = f"The mean of {name} contains the completion's own reward, so rewards count (G−1)/G with G completions per prompt."
        return (FACTOR, reason) if step.is_in_reward else (OTHER_COEFFICIENT, f"{reason} The KL counts in full.")
    return None


def _whitening(step: Step) -> Part:
    if not step.is_whitened:
        return None
    both = "" if step.is_in_reward else ", and the KL coefficient with them"
    return LARGE_BATCH, f"Whitening divides advantages by their standard deviation over the batch{both}."


def _averaging(step: Step) -> Part:
    biased = SAME_OPTIMUM if step.vanishes_at_optimum else BIASED
    if step.ratio_level != "token" and step.has_advantages_of_tokens:
        return (
            biased,
            "The ratio of whole sequences replaces the advantages of tokens by their mean over the completion.",
        )
    if step.aggregation == "sequence":
        return biased, "Each completion is divided by its own length, so a token of a short completion counts more."
    if step.aggregation == "token":
        return (
            LARGE_BATCH,
            "The sum over tokens is divided by the number of tokens of the step, which depends on its completions.",
        )
    return (
        (FACTOR, "The sum over tokens is divided by max_completion_length.")
        if step.aggregation == "constant"
        else None
    )


def warning(step: Step) -> str | None:
    """Text: why training with these settings does not lead to π*, and what to use instead; `None` where it does.

    Also `None` where only the KL coefficient is another one, and for an advantage that the table does not know.

    Raises:
        ValueError: A name of the KL is unknown.
    """
    judged = judge(step)
    if judged is None or judged.verdict != BIASED:
        return None if judged else truth_table.warning(*step.cell, step.gamma)
    where = f"{step.estimator} in the {step.placement} at {step.cell[2]} level"
    if step.cell not in truth_table.EXACT:
        why = f"{where} does not give the gradient of KL(π‖ref): {truth_table.REASONS[step.cell[:2]]}"
    elif step.is_in_reward and step._discount != 1:
        return truth_table.warning(*step.cell, step._discount)
    else:
        why = f"{where} does not lead to the optimum of {OBJECTIVE} with these settings: {_cause(step)}"
    return f"{why}. {remedy(step)}"


def _cause(step: Step) -> str:
    """The part of the step that moves the optimum."""
    if step.advantage == "grpo" and step._deviation == "group" and not step.is_in_reward:
        return "grpo divides rewards by the standard deviation of their group and the KL is not divided"
    if step.advantage == "opo" and not step.is_in_reward:
        return "the baseline of opo contains the completion's own reward, weighted by its length"
    verdict_and_reason = _averaging(step)
    return verdict_and_reason[1][0].lower() + verdict_and_reason[1][1:].rstrip(".") if verdict_and_reason else ""


def remedy(step: Step) -> str:
    """Text: the nearest settings whose step does not move the optimum."""
    token = replace(step, gamma=1.0, ratio_level="token", aggregation="token")
    for each, with_ in (
        (step, ""),
        (token, ", with `loss_aggregation: token` and `importance_sampling_level: token`"),
    ):
        places = {
            "k1 in the reward": replace(each, estimator="k1", placement="reward", level=None),
            "k2 or k3+ in the loss at sequence level": replace(each, estimator="k2", placement="loss", level=None),
        }
        found = [name for name, changed in places.items() if judge(changed).verdict != BIASED]
        if found:
            return f"Use {', or '.join(found)}{with_}."
    return truth_table.INSTEAD


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
