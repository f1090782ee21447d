//! Composable tower layers.
