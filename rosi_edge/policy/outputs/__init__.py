"""One report, told in the forms that pipelines read; one form a file."""
