"""What a person reads and keeps: figures with the data behind them."""
