"""Reinforcement learning on completions: pure functions of log-probabilities, scores, values and masks.

    from trl_ext.rl import advantages, kl, objectives, rewards
    kl.k1(logps, ref_logps)                                     # (B, C) per token
    shaped = rewards.shape(scores, logps, ref_logps, mask)      # (B, C)
    adv, returns = advantages.gae(shaped, values, mask)         # (B, C) each
    objectives.policy_loss(logps, old_logps, adv, mask).losses  # (B, C), unreduced

B completions of at most C tokens; a mask is 1 on completion tokens (the end token included) and 0 elsewhere,
and what stands outside it is never read. `truth_table` alone imports no torch.
"""
