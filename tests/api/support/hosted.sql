-- The rights of a hosted project's `postgres`, here called hosted_owner, in an
-- empty database: it reads the auth server's tables, bypasses row level
-- security, and can grant nothing on the schema.
do $$ begin create role supabase_auth_admin nologin noinherit; exception when duplicate_object or unique_violation then null; end $$;
do $$ begin create role hosted_owner login createrole bypassrls; exception when duplicate_object or unique_violation then null; end $$;
-- Here other databases' superuser made the role; there the owner does.
do $$ begin
  if current_setting('server_version_num')::int >= 160000 then execute 'grant chatbot_ui_api to hosted_owner with admin option'; end if;
end $$;
create schema extensions authorization hosted_owner;
create extension vector schema extensions;
create schema auth authorization supabase_auth_admin;
create table auth.users (id uuid primary key, instance_id uuid, email varchar(255), aud varchar(255), role varchar(255),
  banned_until timestamptz, deleted_at timestamptz, is_anonymous boolean not null default false, created_at timestamptz, updated_at timestamptz);
create table auth.sessions (id uuid primary key, user_id uuid not null references auth.users (id) on delete cascade,
  created_at timestamptz, updated_at timestamptz, not_after timestamptz);
alter table auth.users enable row level security;
alter table auth.sessions enable row level security;
alter table auth.users owner to supabase_auth_admin;
alter table auth.sessions owner to supabase_auth_admin;
create function auth.uid() returns uuid language sql stable as $$ select nullif(current_setting('request.jwt.claims', true)::json ->> 'sub', '')::uuid $$;
grant usage on schema auth to hosted_owner;
grant select, references, trigger on auth.users, auth.sessions to hosted_owner with grant option