"""What the stages of a recipe do: one module a stage, each with a function that programs in
`local/` call, and that a recipe of your own can call as well."""
