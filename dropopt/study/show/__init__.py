"""What a person sees: progress, tables, figures and the dashboard."""
