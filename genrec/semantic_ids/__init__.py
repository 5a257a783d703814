"""Items as tuples of codes: the table, its trie, and which items a request may get."""
