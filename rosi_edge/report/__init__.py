"""What is handed to the reader: report.json, the model card and the pictures."""
