"""`pytest .` finds no tests here: these are templates."""

collect_ignore_glob = ["*"]
