"""What every module may use: parameter checks, warnings, torch's modes, whole files."""
