"""The compiler: a spec in YAML -> the text of Python modules. It never runs what a spec says."""
