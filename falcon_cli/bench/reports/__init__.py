"""The results document in; tables, Markdown, charts and the paper's tables out."""
