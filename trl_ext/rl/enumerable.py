"""Define a language small enough to enumerate, so that every expectation over completions is a finite sum."""

import itertools
import math

import torch
from torch import Tensor


class Language:
    """All completions of up to `length` tokens, in a fixed order; there are `n_tokens` tokens, and token 0 ends a completion.

    A policy is a table of logits (P, V): one row for each of the P unfinished prefixes, V = `n_tokens`.

    Attributes:
        tokens: (N, C) int, the N completions, 0 beyond their end.
        mask: (N, C) bool, true on their tokens, the end token included.
        states: (N, C) int, index of the prefix that each token follows; 0 beyond the end.
        is_ended: (N,) bool, false where a completion reached `length` without its end token.
        prefixes: The P unfinished prefixes, as tuples.
        logits_shape: (P, V).
    """

    def __init__(self, n_tokens: int = 3, length: int = 3) -> None:
        words = range(1, n_tokens)
        self.prefixes = [prefix for n in range(length) for prefix in itertools.product(words, repeat=n)]
        completions = [(*prefix, 0) for prefix in self.prefixes] + list(itertools.product(words, repeat=length))
        row = {prefix: i for i, prefix in enumerate(self.prefixes)}
        lens = torch.tensor([len(completion) for completion in completions])
        self.mask = torch.arange(length) < lens.unsqueeze(1)
        self.tokens = torch.zeros(self.mask.shape, dtype=torch.long)
        self.states = torch.zeros_like(self.tokens)
        for i, completion in enumerate(completions):
            self.tokens[i, : len(completion)] = torch.tensor(completion)
            self.states[i, : len(completion)] = torch.tensor([row[completion[:t]] for t in range(len(completion))])
        self.is_ended = torch.tensor([completion[-1] == 0 for completion in completions])
        self.logits_shape = (len(self.prefixes), n_tokens)

    def logps(self, logits: Tensor) -> Tensor:
        """Log-probability (N, C) of each token of each completion under a policy (P, V); 0 beyond their end."""
        return torch.where(self.mask, logits.log_softmax(-1)[self.states, self.tokens], 0)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probability (N,) of each completion; they sum to 1."""
        return self.logps(logits).sum(-1).exp()

    def kl(self, logits: Tensor, ref_logits: Tensor) -> Tensor:
        """KL(π‖ref) of completions (scalar, differentiable): the sum over all of them."""
        logps = self.logps(logits).sum(-1)
        return (logps.exp() * (logps - self.logps(ref_logits).sum(-1))).sum()

    def per_prefix(self, table: Tensor) -> Tensor:
        """Entries (N, C) of a table (P,) with one number per prefix, such as a value function; 0 beyond the end."""
        return torch.where(self.mask, table[self.states], 0)

    def optimum(self, ref_logits: Tensor, scores: Tensor, kl_coef: float) -> Tensor:
        """π* ∝ ref·exp(score/kl_coef) over completions (N,), which maximises E[score] − kl_coef·KL(π‖ref)."""
        return torch.softmax(self.logps(ref_logits).sum(-1) + scores / kl_coef, 0)

    def logits(self, probabilities: Tensor) -> Tensor:
        """Logits (P, V) of the policy that gives the completions these probabilities (N,)."""
        table = probabilities.new_zeros(self.logits_shape)
        for t in range(self.mask.size(1)):
            here = self.mask[:, t]
            table.index_put_((self.states[here, t], self.tokens[here, t]), probabilities[here], accumulate=True)
        return (table / table.sum(-1, keepdim=True)).log()

    def mean_at(self, values: Tensor, probabilities: Tensor) -> Tensor:
        """Mean of entries (N, C) over the completions that pass a prefix, for each token of each completion: (N, C)."""
        weights = torch.where(self.mask, probabilities.unsqueeze(1), 0)
        sums = probabilities.new_zeros((2, len(self.prefixes)))
        sums[0].index_put_((self.states[self.mask],), (weights * values)[self.mask], accumulate=True)
        sums[1].index_put_((self.states[self.mask],), weights[self.mask], accumulate=True)
        return self.per_prefix(sums[0] / sums[1])

    def greedy(self, logits: Tensor) -> int:
        """Index of the completion of the most probable tokens."""
        best = logits.argmax(-1)
        is_greedy = torch.where(self.mask, best[self.states] == self.tokens, True).all(-1)
        return int(is_greedy.nonzero().item())


def samples(n: int, size: int) -> tuple[Tensor, Tensor]:
    """All samples of `size` out of n outcomes in any order, (K, size) int, and the number of orders of each, (K,)."""
    found = list(itertools.combinations_with_replacement(range(n), size))
    orders = [math.factorial(size) / math.prod(math.factorial(rows.count(i)) for i in set(rows)) for rows in found]
    return torch.tensor(found), torch.tensor(orders, dtype=torch.float64)
