"""What `harness` can do: one module per group of verbs, each with a Typer app that `harness.cli` puts together."""
