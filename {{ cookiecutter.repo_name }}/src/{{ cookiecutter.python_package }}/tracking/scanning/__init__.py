"""What stands in a text: secrets, in time linear in its length; and the URIs of stores."""
