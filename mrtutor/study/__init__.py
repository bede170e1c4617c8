"""The reader study of §4.5: can people tell a synthetic picture from one of the cohort, and read the type from it?"""
