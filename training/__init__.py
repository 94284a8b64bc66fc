"""How the models that come with the studio were made. Nothing here runs in the studio itself."""
