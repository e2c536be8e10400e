"""Where in a text a secret may stand: pure functions, each in time linear in the text's length."""
