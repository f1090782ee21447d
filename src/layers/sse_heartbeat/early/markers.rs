/// Marks a response, in its extensions, as one that began before there was an answer: its head says nothing of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeadersSentEarly;
