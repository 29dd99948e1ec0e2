"""What we run: shapes, files, tokenizer, conversion."""
