"""How numbers are named and written, wherever people read them: terminal, Markdown, page, figures."""
