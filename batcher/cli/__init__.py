"""Commands: parse, call one function below, turn its end into an exit code."""
