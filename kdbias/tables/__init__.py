"""What lands on disk: tables, their provenance, and joins by sample id. Knows neither torch nor faiss."""
