"""What people see: progress, tables, figures and the dashboard."""
