"""Output for users: progress, tables, figures and the dashboard."""
