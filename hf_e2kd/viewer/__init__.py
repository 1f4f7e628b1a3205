"""Teacher and student side by side: a page to try samples on (gradio), and a report of the same as a file."""
