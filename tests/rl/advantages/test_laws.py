"""Laws of every advantage: masks, gradients, permutations, and groups that are spread over processes."""

import threading

import pytest
import torch

from tests.rl.advantages.helpers import GROUPS, batch, inputs, of
from trl_ext.rl import advantages

EVERY = pytest.mark.parametrize("name", advantages.available())
TIGHT = {"rtol": 1e-12, "atol": 1e-12}


def part(tensors, rows):
    return {name: tensor[rows] for name, tensor in tensors.items()}


def on_processes(name, tensors, parts, **settings):
    """The advantages that each process finds for its rows, in threads whose `add_up` waits for all of them."""
    barrier, sent, found = threading.Barrier(len(parts)), {}, {}

    def work(rank):
        def add_up(tensor):
            sent[rank] = tensor
            barrier.wait(60)
            total = sum(sent[other] for other in range(len(parts)))
            barrier.wait(60)
            return total

        own = part(tensors, parts[rank])
        found[rank] = of(name, own, **(settings | ({"add_up": add_up} if beyond_a_completion(name) else {})))

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(len(parts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return [found[rank] for rank in range(len(parts))]


def beyond_a_completion(name):
    info = advantages.describe(name)
    return info.needs_groups or info.whitens


@EVERY
def test_values_outside_the_mask_are_never_read(name):
    found = of(name, batch())
    assert found.isfinite().all() and not found[~batch()["mask"]].any()
    torch.testing.assert_close(found, of(name, batch(junk=1e30)), rtol=0, atol=0)


@EVERY
def test_no_gradient_passes(name):
    tensors = batch()
    for tensor in tensors.values():
        if tensor.is_floating_point():
            tensor.requires_grad_()
    found = advantages.get(name)(*inputs(name, tensors))
    assert not any(x.requires_grad for x in (found if isinstance(found, tuple) else (found,)))


@EVERY
def test_the_order_of_completions_does_not_matter(name):
    tensors = batch()
    order = torch.randperm(len(GROUPS), generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(of(name, part(tensors, order)), of(name, tensors)[order], **TIGHT)


@EVERY
def test_the_numbers_of_prompts_do_not_matter(name):
    """Other numbers, with a gap."""
    tensors = batch()
    renamed = tensors | {"groups": torch.tensor([6, 0, 3, 4])[tensors["groups"]]}
    torch.testing.assert_close(of(name, renamed), of(name, tensors), **TIGHT)


@EVERY
@pytest.mark.parametrize(
    "parts",
    [(range(6), range(6, 12)), ((0, 11, 5), (1, 2, 3, 4, 6, 7, 8, 9, 10), ()), (range(12), ())],
    ids=["halves", "uneven, one empty", "all on one"],
)
def test_processes_find_what_one_process_finds(name, parts):
    """Prompts 0, 1 and 3 are on both halves. A process without completions takes part in every sum."""
    tensors = batch()
    whole = of(name, tensors)
    for rows, found in zip(parts, on_processes(name, tensors, [list(rows) for rows in parts]), strict=True):
        torch.testing.assert_close(found, whole[list(rows)], **TIGHT)


@pytest.mark.parametrize("scale", ["batch", "none"])
def test_processes_scale_rewards_by_the_deviation_of_all(scale):
    tensors = batch()
    whole = of("grpo", tensors, scale_rewards=scale)
    first, second = on_processes("grpo", tensors, [[0, 1, 2, 3], [4, 5, 6, 7, 8, 9, 10, 11]], scale_rewards=scale)
    torch.testing.assert_close(torch.cat([first, second]), whole, **TIGHT)


@EVERY
def test_completions_without_a_score_leave_the_others_as_they_are(name):
    tensors = batch()
    has_score = tensors["mask"].any(1)
    torch.testing.assert_close(of(name, part(tensors, has_score)), of(name, tensors)[has_score], **TIGHT)


@pytest.mark.parametrize("name", [name for name in advantages.available() if advantages.describe(name).needs_groups])
def test_a_number_below_0_is_no_prompt(name):
    tensors = batch()
    with pytest.raises(ValueError, match="The number of a prompt is -1, but `groups` are counted from 0"):
        of(name, tensors | {"groups": tensors["groups"] - 1})


@EVERY
def test_a_batch_without_any_score(name):
    tensors = batch()
    found = of(name, tensors | {"mask": torch.zeros_like(tensors["mask"])})
    assert found.shape == tensors["rewards"].shape and not found.any()


@EVERY
def test_rewards_in_float32_and_masks_of_numbers(name):
    tensors = batch()
    single = {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in tensors.items()}
    found = of(name, single | {"mask": tensors["mask"].long()})
    assert found.dtype == torch.float32
    rounded = {key: tensor.double() if tensor.is_floating_point() else tensor for key, tensor in single.items()}
    torch.testing.assert_close(found.double(), of(name, rounded), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in advantages.available() if beyond_a_completion(name)])
@pytest.mark.parametrize("score", [0.1, 100.1])
def test_equal_rewards_teach_nothing_in_float32(name, score):
    """The mean of three such scores differs from them in the last bit, which a division by the deviation would enlarge."""
    rewards, mask, groups = torch.full((3, 1), score), torch.ones(3, 1), torch.zeros(3, dtype=torch.long)
    found = of(name, {"rewards": rewards, "mask": mask, "groups": groups})
    assert found.abs().max() < 1e-8


@pytest.mark.parametrize("name", [name for name in advantages.available() if advantages.describe(name).needs_groups])
def test_a_constant_added_to_a_prompts_scores_changes_nothing(name):
    """All baselines of groups subtract it; GRPO's deviation of a batch is that of rewards and does not belong here."""
    tensors = batch()
    moved = tensors["rewards"].clone()
    for row, (valid, prompt) in enumerate(zip(tensors["mask"], GROUPS, strict=True)):
        if valid.any():
            moved[row, 0] += 10.0 * prompt
    torch.testing.assert_close(of(name, tensors | {"rewards": moved}), of(name, tensors), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", [name for name in advantages.available() if advantages.describe(name).whitens])
def test_what_whitens_is_white(name):
    tensors = batch()
    found = of(name, tensors)[tensors["mask"]]
    assert found.mean().abs() < 1e-12 and found.var().item() == pytest.approx(1, abs=1e-6)
