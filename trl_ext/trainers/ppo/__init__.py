"""Train by PPO with a critic and a choice of KL estimator."""
