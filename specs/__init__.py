"""The update rules: one YAML file an optimizer, the only place where its mathematics is written."""
