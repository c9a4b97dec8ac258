//! The tailnet's state and the one pure function that changes it.

mod model;

pub use self::model::{
    ApiKey, Endpoint, Node, PendingLogin, PreAuthKey, RegisterMethod, Relay, Replica, Session,
    SessionNo, Settings, User,
};
