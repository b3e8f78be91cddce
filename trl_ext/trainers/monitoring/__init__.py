"""Watch a run while it trains: metrics of a window, symptoms of common failures, the callback that reports them."""
