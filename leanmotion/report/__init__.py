"""Tables to one self-contained HTML page, and the CSV files behind its charts."""
