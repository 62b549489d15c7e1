//! What policies of each kind show to whom, live, and what live changes of access do to whom they concern, and to nobody
//! else.

mod changes;
mod kinds;
mod scene;
