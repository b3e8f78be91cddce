"""Small helpers without a domain of their own: errors, messages, atomic writes, the Hub, sampling, confidence intervals."""
