//! Custom resources of the RDS storage operator.
