"""Reinforcement learning on completions: pure functions of log-probabilities, scores, values and masks.

    from trl_ext.rl import advantages, aggregation, kl, objectives, rewards
    kl.k1(logps, ref_logps)                                     # (B, C) per token
    shaped = rewards.shape(scores, logps, ref_logps, mask)      # (B, C)
    adv, returns = advantages.gae(shaped, values, mask)         # (B, C) each
    objectives.policy_loss(logps, old_logps, adv, mask).losses  # (B, C), unreduced
    aggregation.aggregate(losses, mask, "token")                # their mean

B completions of up to C tokens. A mask is 1 on completion tokens (the end token included) and 0 elsewhere; values
outside it are never read. `truth_table`, `step_table`, `policy_gradient` and the declarations of advantages import no torch.
"""
