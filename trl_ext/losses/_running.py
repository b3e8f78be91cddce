"""Update running means that losses keep from step to step."""

from torch import Tensor


def running_mean(mean: Tensor, count: Tensor, values: Tensor, momentum: float) -> tuple[Tensor, Tensor]:
    """The mean and the count of values after further ones.

    With momentum 1 it is the mean of all values so far. A smaller momentum m gives the values of this step at least the weight
    1 − m: an exponential moving average, which begins as the plain mean and so needs no correction of its start.

    Args:
        mean, count: Scalars, of the values so far.
        values: (N,), of this step. N may be 0: nothing changes.
        momentum: m, from 0 to 1.
    """
    if not len(values):
        return mean, count
    count = count + len(values)
    weight = (len(values) / count).clamp(min=1 - momentum)
    return mean + weight * (values.mean() - mean), count
